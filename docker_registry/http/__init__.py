"""What the server and the application share about HTTP: exchanges, addresses of clients, kinds of clients, health."""
