"""HTTP in, HTTP out: the routes of the APIs. No storage path and no rule of the domain lives here."""
