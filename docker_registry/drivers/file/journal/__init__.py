"""The journal of the driver ``file``: small contents become durable with one wait, and are restored after a crash."""
