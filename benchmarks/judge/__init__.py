"""How good the judgement of canaries is: a simulator of services, the rules of others, and ours."""
