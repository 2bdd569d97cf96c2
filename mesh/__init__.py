"""Deliberation between models of different families: plain data and asyncio, nothing that knows a model runtime."""
