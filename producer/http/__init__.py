"""HTTP: the server's protocol, what every call passes through, and how answers are sent."""
