// What scrolls sideways can be reached by keys.
