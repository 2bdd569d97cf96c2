"""What may take a seat: screen, DEV, rivals, the gate and its controls, and the paired tests behind them."""
