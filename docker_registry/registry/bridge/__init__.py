"""The bridge between the APIs: shows content of V2 to clients of V1, and content of V1 to clients of V2."""
