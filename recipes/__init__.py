"""The Hydra applications: each composes components and prints what it made and what to run next."""
