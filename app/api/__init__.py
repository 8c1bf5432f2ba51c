"""The HTTP surface: wire shapes to services and back. `application.create_app` is the way in."""
