"""The Responses API. A response is a chat job, and its events are a function of the job's log."""
