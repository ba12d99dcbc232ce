-- service_stats as PostgREST reads it: in a read-only transaction, with the token's role and claims.
\pset null null

\echo '> select busymate_stats.refresh_stats();'
select busymate_stats.refresh_stats();

\echo '> A viewer''s token:'
begin read only;
select set_config('role', 'authenticated', true) as ignored,
       set_config('request.jwt.claims', '{"role":"authenticated","sub":"11111111-1111-4111-8111-111111111111"}', true) as ignored
\gset
\echo '> select snapshot from service_stats where id = 1;'
\pset format unaligned
select snapshot from public.service_stats where id = 1;
\pset format aligned
commit;

\echo
\echo '> A nobody''s token:'
begin read only;
select set_config('role', 'authenticated', true) as ignored,
       set_config('request.jwt.claims', '{"role":"authenticated","sub":"22222222-2222-4222-8222-222222222222"}', true) as ignored
\gset
\echo '> select snapshot from service_stats where id = 1;'
select snapshot from public.service_stats where id = 1;
\echo '> select get_stats();'
select public.get_stats();
commit;
