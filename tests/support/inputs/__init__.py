"""What people bring, a function a line of docs/inputs.md: each gives its input to `mfql` and returns what was said."""
