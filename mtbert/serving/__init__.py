"""An HTTP server of one model: every head's answer from one encoding. It needs the extra `mtbert[serve]`."""
