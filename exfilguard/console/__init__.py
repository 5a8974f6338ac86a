"""The on-call operator's pages: a shell that reads the topics and acts through the operator's commands."""
