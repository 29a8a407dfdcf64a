// SPDX-License-Identifier: Apache-2.0

// Command kube-apiserver serves the objects that kube-ipvs follows with the library that kube-apiserver is made of:
// its storage in etcd, its watch cache, its lists, watches, bookmarks and streaming lists, its patches and its TLS.
//
// It is not kube-apiserver: nothing is validated, defaulted or allocated, there is no RBAC (who is not in
// system:masters may do nothing), and there are no other resources.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	requestunion "k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"apiserver/openapi"
)

var (
	scheme     = runtime.NewScheme()
	codecs     = serializer.NewCodecFactory(scheme)
	parameters = runtime.NewParameterCodec(scheme)
)

// resource is one row of what is served.
type resource struct {
	version    schema.GroupVersion
	plural     string
	singular   string
	namespaced bool
	object     func() runtime.Object
	list       func() runtime.Object
}

var resources = []resource{
	{corev1.SchemeGroupVersion, "namespaces", "namespace", false,
		func() runtime.Object { return &corev1.Namespace{} }, func() runtime.Object { return &corev1.NamespaceList{} }},
	{corev1.SchemeGroupVersion, "nodes", "node", false,
		func() runtime.Object { return &corev1.Node{} }, func() runtime.Object { return &corev1.NodeList{} }},
	{corev1.SchemeGroupVersion, "services", "service", true,
		func() runtime.Object { return &corev1.Service{} }, func() runtime.Object { return &corev1.ServiceList{} }},
	{discoveryv1.SchemeGroupVersion, "endpointslices", "endpointslice", true,
		func() runtime.Object { return &discoveryv1.EndpointSlice{} },
		func() runtime.Object { return &discoveryv1.EndpointSliceList{} }},
	{networkingv1.SchemeGroupVersion, "servicecidrs", "servicecidr", false,
		func() runtime.Object { return &networkingv1.ServiceCIDR{} },
		func() runtime.Object { return &networkingv1.ServiceCIDRList{} }},
	{eventsv1.SchemeGroupVersion, "events", "event", true,
		func() runtime.Object { return &eventsv1.Event{} }, func() runtime.Object { return &eventsv1.EventList{} }},
}

// The types of v1 stand in for the internal ones, which the library wants but only kube-apiserver has: no conversion.
func init() {
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	scheme.AddUnversionedTypes(schema.GroupVersion{Version: "v1"},
		&metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme, networkingv1.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	for _, r := range resources {
		internal := schema.GroupVersion{Group: r.version.Group, Version: runtime.APIVersionInternal}
		scheme.AddKnownTypes(internal, r.object(), r.list())
		utilruntime.Must(scheme.SetVersionPriority(r.version))
	}
}

// anything lets every object in as it is.
type anything struct {
	runtime.ObjectTyper
	names.NameGenerator
	namespaced bool
}

func (a anything) NamespaceScoped() bool                                               { return a.namespaced }
func (anything) AllowCreateOnUpdate() bool                                             { return false }
func (anything) AllowUnconditionalUpdate() bool                                        { return true }
func (anything) Canonicalize(runtime.Object)                                           {}
func (anything) PrepareForCreate(context.Context, runtime.Object)                      {}
func (anything) PrepareForUpdate(_ context.Context, _, _ runtime.Object)               {}
func (anything) Validate(context.Context, runtime.Object) field.ErrorList              { return nil }
func (anything) ValidateUpdate(_ context.Context, _, _ runtime.Object) field.ErrorList { return nil }
func (anything) WarningsOnCreate(context.Context, runtime.Object) []string             { return nil }
func (anything) WarningsOnUpdate(_ context.Context, _, _ runtime.Object) []string      { return nil }

func (r resource) store(getter generic.RESTOptionsGetter) (*registry.Store, error) {
	strategy := anything{scheme, names.SimpleNameGenerator, r.namespaced}
	name := schema.GroupResource{Group: r.version.Group, Resource: r.plural}
	store := &registry.Store{
		NewFunc:                   r.object,
		NewListFunc:               r.list,
		DefaultQualifiedResource:  name,
		SingularQualifiedResource: schema.GroupResource{Group: r.version.Group, Resource: r.singular},
		CreateStrategy:            strategy,
		UpdateStrategy:            strategy,
		DeleteStrategy:            strategy,
		TableConvertor:            rest.NewDefaultTableConvertor(name),
	}
	return store, store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter})
}

// Flags of kube-apiserver that mean nothing here.
var ignored = []string{
	"authorization-mode", "allow-privileged", "disable-admission-plugins", "endpoint-reconciler-type",
	"service-account-issuer", "service-account-key-file", "service-account-signing-key-file",
	"service-cluster-ip-range",
}

func configure(arguments []string) (*server.Config, error) {
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	versions := schema.GroupVersions{
		corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, eventsv1.SchemeGroupVersion,
		networkingv1.SchemeGroupVersion,
	}
	storage := storagebackend.NewDefaultConfig("/registry", codecs.LegacyCodec(versions...))
	storage.EncodeVersioner = versions
	run, etcd := options.NewServerRunOptions(), options.NewEtcdOptions(storage)
	serving := options.NewSecureServingOptions().WithLoopback()
	run.AddUniversalFlags(flags)
	etcd.AddFlags(flags)
	serving.AddFlags(flags)
	tokens := flags.String("token-auth-file", "", "CSV file of tokens, users and groups")
	for _, flag := range ignored {
		flags.String(flag, "", "ignored")
	}
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	config := server.NewConfig(codecs)
	config.SkipOpenAPIInstallation = true
	namer := openapinamer.NewDefinitionNamer(scheme)
	config.OpenAPIV3Config = server.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	for _, apply := range []func(*server.Config) error{run.ApplyTo, etcd.ApplyTo, serving.ApplyToConfig} {
		if err := apply(config); err != nil {
			return nil, err
		}
	}
	return config, admit(config, *tokens)
}

// Tokens say who asks; only system:masters may do anything, and everybody may ask whether the server is well.
func admit(config *server.Config, tokens string) error {
	known, err := tokenfile.NewCSV(tokens)
	if err != nil {
		return err
	}
	config.Authentication.Authenticator = requestunion.NewFailOnError(
		group.NewAuthenticatedGroupAdder(bearertoken.New(known)), anonymous.NewAuthenticator(nil))
	health := authorizer.AuthorizerFunc(
		func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			switch path := a.GetPath(); {
			case a.IsResourceRequest():
			case path == "/version", strings.HasPrefix(path, "/livez"), strings.HasPrefix(path, "/readyz"):
				return authorizer.DecisionAllow, "", nil
			}
			return authorizer.DecisionNoOpinion, "", nil
		})
	config.Authorization.Authorizer = union.New(
		authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup), health)
	return nil
}

func run(ctx context.Context, arguments []string) error {
	config, err := configure(arguments)
	if err != nil {
		return err
	}
	getter := config.RESTOptionsGetter
	apiserver, err := config.Complete(nil).New("kube-apiserver", server.NewEmptyDelegate())
	if err != nil {
		return err
	}
	groups := map[string]*server.APIGroupInfo{}
	for _, r := range resources {
		info := groups[r.version.Group]
		if info == nil {
			made := server.NewDefaultAPIGroupInfo(r.version.Group, scheme, parameters, codecs)
			made.VersionedResourcesStorageMap[r.version.Version] = map[string]rest.Storage{}
			info, groups[r.version.Group] = &made, &made
		}
		store, err := r.store(getter)
		if err != nil {
			return err
		}
		info.VersionedResourcesStorageMap[r.version.Version][r.plural] = store
	}
	for name, info := range groups {
		if name == "" {
			err = apiserver.InstallLegacyAPIGroup(server.DefaultLegacyAPIPrefix, info)
		} else {
			err = apiserver.InstallAPIGroup(info)
		}
		if err != nil {
			return err
		}
	}
	return apiserver.PrepareRun().RunWithContext(ctx)
}

func main() {
	if err := run(server.SetupSignalContext(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
