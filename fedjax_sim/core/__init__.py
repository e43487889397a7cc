"""Contracts, types, keys and checks that every other room builds on."""
