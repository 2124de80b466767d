//! The words that motu and the agent in the guest exchange.
