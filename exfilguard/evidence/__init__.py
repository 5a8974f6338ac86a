"""What remains: the archive of events, the ledger of verdicts and actions, and the reports made of them.

Reads and writes files, and knows no network, no Kafka and no clock: time arrives as an argument. Shells feed it."""
