"""How a version that came by an update comes to serve: tried beside what serves, ruled, and watched for a while after.

`records.py`: the rows in `state.db`. `trial.py`: one model's inputs, counted and compared. `replay.py`: recent pictures
again, where too few came. `steps.py`: the steps of a rollout. `configuration.py`: what a release changes in the box's
own, with its models. `rollouts.py`: which rollout goes on. `reports.py`: what is told of all this.
"""
