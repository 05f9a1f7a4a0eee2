"""HTTP in, SSE out: validates, admits, enqueues and relays.

Never generates, keeps nothing: any replica answers for any job.
"""
