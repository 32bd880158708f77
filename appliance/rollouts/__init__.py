"""How a version that came by an update comes to serve: tried beside what serves, ruled, and watched for a while after.

`records.py`: the rows in `state.db`. `trial.py`: one model's inputs, counted and compared. `replay.py`: recent pictures
again, where too few came. `rollouts.py`: the steps of a rollout. `reports.py`: what is told of all this.
"""
