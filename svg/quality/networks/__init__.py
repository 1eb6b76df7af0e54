"""The networks that metrics compare features of; importing one loads torch."""
