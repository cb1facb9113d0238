"""A run as an HTTP server of OpenAI's shape. Needs the extra `serve`; nothing that trains imports it."""
