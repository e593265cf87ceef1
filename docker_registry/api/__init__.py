"""The HTTP layer: routes of both APIs, requests and responses. It contains no storage paths and no domain rules."""
