"""Protocols that are made of protocols; they nest, and every loop has an explicit end."""
