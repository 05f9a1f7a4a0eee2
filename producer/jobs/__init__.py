"""Jobs from the API's side: submitting, waiting, retrying in the background, and reconciling the stores."""
