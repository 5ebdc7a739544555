"""Doors to this machine: one module for each outside thing (processes, mounts, netlink, nftables, …).

Node code and drivers go through them, so that every command is logged, bounded in time, and fails with words.
"""
