"""The stored facts of the trainers are those of their classes and networks."""

from nnunet_plugins.trainers.facts import find_facts, read_facts


def test_stored_facts_are_those_of_the_classes_and_the_networks_that_they_build():
    assert read_facts() == find_facts(), "run python -m nnunet_plugins.trainers.facts"
