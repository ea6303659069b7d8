"""The transports for httpx2 and httpx: one text, to which `resilience_http.httpx2` and `.httpx` give their library."""
