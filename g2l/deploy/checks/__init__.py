"""What `g2l doctor` looks at, one idea a file; nothing here imports torch into the process that asks."""
