"""The shell around the evidence: one process that follows Kafka into the archive and the ledger, and tells the SIEM."""
