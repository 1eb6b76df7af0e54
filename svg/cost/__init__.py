"""What a generation costs: time by phase and step, memory, FLOPs; and whether what was timed computed the right thing."""
