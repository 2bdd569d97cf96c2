"""What each command of `evomesh` does; `evolve.cli` declares them."""
