"""Verifiers: is an answer right? Everything of a user's runs in a child that can be killed, or in a sandbox."""
