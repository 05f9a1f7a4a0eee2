"""The API: validates requests, admits them, enqueues jobs, and sends their answers over HTTP and gRPC.

It keeps no state of jobs between calls, so every replica can answer every call.
"""
