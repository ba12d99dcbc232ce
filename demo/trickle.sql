-- Runs until the server stops. The first entry comes at once, for who is watching.
set application_name = 'demo trickle';
select demo.tick(1);
select demo.tick() \watch 2
