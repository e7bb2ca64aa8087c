"""Measures as training jobs run: this comes before torch, which asks the environment once how its threads wait."""

from mfql.cores import sleep_while_waiting

sleep_while_waiting()
