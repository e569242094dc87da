#!/bin/sh
# Squares its argument, as the sweep of the example may do.
echo "input $1 squared: $(($1 * $1))"
