"""The registry's logs: messages, requests and audited requests, as text or JSON, without secrets."""
