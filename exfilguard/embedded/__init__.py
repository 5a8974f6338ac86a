"""What runs on one machine with nothing else set up: a Kafka-protocol broker and PostgreSQL, from pip packages, as child
processes that never outlive their parent."""
