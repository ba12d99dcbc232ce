-- The roles that a Supabase project has, where they are missing: roles belong to the whole cluster.
set client_min_messages = warning;
select format('create role %s', role)
  from (values ('anon', 'anon nologin noinherit'),
               ('authenticated', 'authenticated nologin noinherit'),
               ('service_role', 'service_role nologin noinherit bypassrls'),
               ('authenticator', 'authenticator login noinherit')) wanted(name, role)
 where not exists (select from pg_roles where rolname = wanted.name)
\gexec
grant anon, authenticated, service_role to authenticator;
select format('alter role authenticator password %L', :'password')
\gexec
