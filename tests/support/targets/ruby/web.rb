# SPDX-License-Identifier: Apache-2.0
# A small application on Sinatra, for puma; `rackup`ed by web.ru.
require "sinatra/base"
require "json"

class Shop < Sinatra::Base
  set :views, __dir__
  set :show_exceptions, false

  get "/item/:id" do
    @id = params["id"]
    File.exist?("/shop/#{@id}")
    erb "<p><%= @id %> <%= File.exist?('/shop/page') %></p>"
  end

  get "/list" do
    content_type :json
    File.read(__FILE__)
    JSON.generate(Dir.children("/etc").first(3))
  end

  post "/item" do
    data = request.body.read
    File.write("#{__dir__}/item-#{data.to_i}", data)
    status 201
    data
  end
end
