"""What tests stand on: private servers, a wire that breaks on cue, processes that always end."""
