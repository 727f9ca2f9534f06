"""What a user takes away: a training with the chosen point, the adapter, a merged model, other tools' settings."""
