"""The kernel's work that a driver's verbs do, done by the tools that administrators have: what a driver is measured against."""
