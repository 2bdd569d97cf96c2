"""Settings of every test: the same examples in every run, however busy the machine is."""

from hypothesis import settings

settings.register_profile("evomesh", deadline=None, derandomize=True)
settings.load_profile("evomesh")
