"""The controller: inventory, rollout planner, gates, seeder, API."""
