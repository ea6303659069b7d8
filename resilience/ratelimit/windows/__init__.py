"""Windows of time that count calls, in place of a token bucket: `RateLimit("100/minute", strategy="moving-window")`."""
