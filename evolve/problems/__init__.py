"""Problems, their splits, and the seal on the references of GATE and AUDIT."""
