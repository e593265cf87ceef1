"""Reports of unexpected errors: by mail, to Bugsnag and to Sentry."""
