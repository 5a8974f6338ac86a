"""The installation of docker-compose.yml as processes: `make demo-cluster`, and what the chaos scenarios run on."""
