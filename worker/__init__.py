"""Deliveries in, frames out: takes jobs from the queue, runs an engine, appends to the job's log, settles."""
