"""Speed on one CUDA device, against the arithmetic of that device."""
